"""A whole Django site in one file, which takes only good photographs:

python -m qinsight_plugin.integrations.django.example runserver --noreload
"""

from __future__ import annotations

import sys

from django import forms
from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from qinsight_plugin.integrations.django import QualityValidator

if not settings.configured:
    settings.configure(
        ROOT_URLCONF=__name__,
        SECRET_KEY="only an example",
        ALLOWED_HOSTS=["127.0.0.1"],
        USE_I18N=False,
    )


class PhotoForm(forms.Form):
    photo = forms.ImageField(validators=[QualityValidator(min_score=3.2)])


@csrf_exempt
def photos(request: HttpRequest) -> JsonResponse:
    form = PhotoForm(request.POST, request.FILES)
    if not form.is_valid():
        return JsonResponse(form.errors, status=422)
    return JsonResponse({"stored": form.cleaned_data["photo"].name})


urlpatterns = [path("photos", photos)]

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
